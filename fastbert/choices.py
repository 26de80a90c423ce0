"""What options may be, with nothing imported: the command line's help is there at once."""

BACKENDS = ("auto", "triton", "reference")

# Google's released sizes: layers and width; heads are 64 wide and the feed-forward block 4 times as wide as the rest.
SIZES = {"tiny": (2, 128), "mini": (4, 256), "small": (4, 512), "medium": (8, 512), "base": (12, 768), "large": (24, 1024)}

# Poolings in the order in which sentence-transformers concatenates them, with the keys of its older 1_Pooling/config.json.
POOLINGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}

# Table 7 of the paper: hidden states (0: the embeddings, -1: the last layer), and whether they are summed by learned weights.
LAYERS: dict[str, tuple[tuple[int, ...], bool]] = {
    "embeddings": ((0,), False),
    "second-to-last": ((-2,), False),
    "last": ((-1,), False),
    "sum-last-4": ((-4, -3, -2, -1), True),
    "concat-last-4": ((-4, -3, -2, -1), False),
    "sum-all": ((), True),
}

PRECISIONS = ("float32", "float16", "int8", "uint8", "binary", "ubinary")  # of vectors
SERVED = ("embed", "rerank", "classify", "nli", "ner", "qa", "fill-mask", "next-sentence")  # what a server answers
OVERLONG = ("truncate", "error", "window")  # texts beyond the limit
FORMATS = ("text", "sentences", "markdown", "jsonl", "table")  # of text for pre-training
OBJECTIVES = ("mlm+nsp", "mlm+sop", "mlm", "ltr")
BALANCES = ("exact", "google")  # of pairs that follow each other and random ones
SELECTIONS = ("exact", "bernoulli")  # how many tokens are predicted
RANDOM_WORDS = ("regular", "all")  # entries of the vocabulary that replace predicted tokens

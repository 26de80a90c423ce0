"""The errors that fastbert raises. Each is also the kind that Python has for it, so `except ValueError` works as usual."""


class FastbertError(Exception):
    """Base of every error that fastbert raises on purpose."""


class InputError(FastbertError, ValueError):
    """A value that the model, the tokenizer or a file reader cannot take: the message names it, its place and the limit."""


class ArgumentError(FastbertError, TypeError):
    """A keyword that does not exist or that BERT has no use for."""


class ConfigError(FastbertError, ValueError):
    """A configuration that does not describe a BERT."""


class BackendError(FastbertError, RuntimeError):
    """The requested backend cannot run an op; the message says why."""


class TrainingError(FastbertError, RuntimeError):
    """A training run that cannot go on; the message names the step and the last good checkpoint."""


class CheckpointError(FastbertError, ValueError):
    """A checkpoint whose content is damaged or does not fit the model."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """No checkpoint, or a part of one, at the given path or hub id."""

    def __str__(self) -> str:  # OSError would print its errno form
        return str(self.args[0]) if self.args else ""

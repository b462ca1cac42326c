"""The one exception that ends a start."""


class Refusal(Exception):  # noqa: N818 - it refuses to start; nothing went wrong inside
    """A reason not to start, as a sentence for the user: what, which value, what is allowed.

    The command prints it and exits with status 2. A refusal raised ``from`` another exception
    prints that one's traceback above the sentence.
    """

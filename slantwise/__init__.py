"""slantwise: the part that travels with an exported model. It imports none of the application's folders."""

__version__ = "0.1.0"

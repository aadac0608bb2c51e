"""Changes defaults of gunicorn for the server that functions-framework starts.

functions-framework starts gunicorn after it has imported the function's `main.py`. It passes only a
few settings, and reads neither gunicorn's configuration file nor `GUNICORN_CMD_ARGS`. The defaults
of the other settings are therefore the only way to set them. Without gunicorn nothing changes.
"""

from __future__ import annotations

import logging
from typing import Any


def disable_control_socket() -> None:
    """Disables gunicorn's control socket, which nothing uses here.

    It is created in the home directory. In a container without a writable one, gunicorn logs an
    error at each start.
    """
    config = _config()
    if hasattr(config, "ControlSocketDisable"):  # since gunicorn 25.1
        config.ControlSocketDisable.default = True


def set_log_format(formatter: logging.Formatter) -> None:
    """Sets the format of gunicorn's own log.

    Its level remains `error`, the default of functions-framework, since gunicorn's warnings name
    addresses of clients.
    """
    config = _config()
    if config is None:
        return
    from gunicorn.glogging import Logger

    class FormattedLogger(Logger):  # type: ignore[misc, unused-ignore]  # gunicorn has no types
        """gunicorn's logger with another format."""

        def setup(self, cfg: Any) -> None:
            """Sets up the handlers."""
            super().setup(cfg)
            for handler in self.error_log.handlers:
                handler.setFormatter(formatter)

    config.LoggerClass.default = FormattedLogger


def _config() -> Any:
    """Returns the module with gunicorn's settings, or None where gunicorn is not installed."""
    try:
        from gunicorn import config
    except ImportError:  # such as on Windows
        return None
    return config

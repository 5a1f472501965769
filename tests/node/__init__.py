"""An Express app and Python apps on one table, with one cookie: the real packages, over HTTP."""

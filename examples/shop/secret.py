"""The secret that signs session cookies: from SHOP_SECRET, else made once and kept."""

import os
import secrets
from pathlib import Path


def load_secret(file: Path) -> list[str]:
    """The first secret signs, all of them verify.

    To change the secret without logging anybody out, put the new one in front of the old one:
    SHOP_SECRET="new old". A real shop gets it from its environment. The file is for trying things
    out: a secret that was new at every start would make every cookie worthless at every start.
    """
    from_environment = os.environ.get("SHOP_SECRET", "").split()
    if from_environment:
        return from_environment
    try:
        # O_EXCL never overwrites; 0600 keeps other users of this machine from reading it.
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return file.read_text().split()
    with os.fdopen(handle, "w") as new_file:
        new_secret = secrets.token_urlsafe(32)
        new_file.write(new_secret + "\n")
    return [new_secret]

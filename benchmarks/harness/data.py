"""The session that everybody stores: 500 bytes as JSON."""

from __future__ import annotations

from typing import Any

SECRET = "benchmark-secret-of-more-than-32-characters"


def session_data() -> dict[str, Any]:
    """A visitor with a cart, as a fresh dict; `n` is what the read-and-write path counts."""
    return {
        "n": 0,
        "user_id": "4711",
        "name": "Ada Lovelace",
        "locale": "en-GB",
        "csrf": "q7mB0Xv5w2Zk9cRr1TtYyUuIiOoPp3Ss",
        "cart": [
            {"sku": f"SKU-{1000 + item}", "count": item % 3 + 1, "price": 1999 + item}
            for item in range(6)
        ],
        "seen": [f"/products/{number}" for number in range(100, 108)],
    }

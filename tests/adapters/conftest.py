"""The suite's asserts are explained like any other's."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.adapters.suite")

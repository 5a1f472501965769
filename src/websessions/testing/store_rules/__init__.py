"""What every store has to do, as tests that await an `AnyStore`."""

from .calls import CallRules
from .direct import DirectRules
from .locks import LockRules
from .races import RaceRules
from .sweeping import SweepRules

__all__ = ["CallRules", "DirectRules", "LockRules", "RaceRules", "SweepRules"]

"""The decision at the end of a request, over every combination of what can decide it.

Two accounts of it that know nothing of the code: an oracle in the words of express-session's own
predicates, and the table as the docs print it, so that a changed decision is a changed line here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from websessions.outcome import (
    OUTCOMES,
    CookieAction,
    Intent,
    Row,
    StoreAction,
    cookie_action,
    saving,
)

GOLDEN = """
unborn  keep        clean  nothing  none
unborn  keep        save   insert   set
unborn  regenerate  clean  nothing  none
unborn  regenerate  save   insert   set
unborn  privilege   clean  nothing  none
unborn  privilege   save   insert   set
unborn  destroy     clean  nothing  none
unborn  destroy     save   insert   set
unborn  abandon     clean  nothing  none
unborn  abandon     save   nothing  none
unread  keep        clean  nothing  none
unread  keep        save   nothing  none
unread  regenerate  clean  nothing  none
unread  regenerate  save   nothing  none
unread  privilege   clean  nothing  none
unread  privilege   save   nothing  none
unread  destroy     clean  delete   clear
unread  destroy     save   renew    set
unread  abandon     clean  nothing  none
unread  abandon     save   nothing  none
live    keep        clean  touch    refresh
live    keep        save   replace  refresh
live    regenerate  clean  move     set
live    regenerate  save   move     set
live    privilege   clean  promote  set
live    privilege   save   promote  set
live    destroy     clean  delete   clear
live    destroy     save   renew    set
live    abandon     clean  nothing  none
live    abandon     save   nothing  none
graced  keep        clean  touch    none
graced  keep        save   replace  none
graced  regenerate  clean  touch    none
graced  regenerate  save   replace  none
graced  privilege   clean  promote  set
graced  privilege   save   promote  set
graced  destroy     clean  delete   clear
graced  destroy     save   renew    set
graced  abandon     clean  nothing  none
graced  abandon     save   nothing  none
ended   keep        clean  nothing  none
ended   keep        save   nothing  none
ended   regenerate  clean  nothing  none
ended   regenerate  save   nothing  none
ended   privilege   clean  nothing  none
ended   privilege   save   nothing  none
ended   destroy     clean  nothing  none
ended   destroy     save   nothing  none
ended   abandon     clean  nothing  none
ended   abandon     save   nothing  none
"""


@dataclass(frozen=True)
class Case:
    row: Row
    intent: Intent
    changed: bool
    save_uninitialized: bool
    resave: bool
    rolling: bool
    persistent: bool

    def __str__(self) -> str:
        options = ("changed", "save_uninitialized", "resave", "rolling", "persistent")
        words = [self.row.name.lower(), self.intent.name.lower()]
        return "-".join(words + [name for name in options if getattr(self, name)])

    def decided(self) -> tuple[StoreAction, CookieAction]:
        """What the code decides."""
        save = saving(
            self.row,
            self.intent,
            changed=self.changed,
            save_uninitialized=self.save_uninitialized,
            resave=self.resave,
        )
        action, cookie = OUTCOMES[self.row, self.intent, save]
        cookie = cookie_action(
            cookie, changed=self.changed, rolling=self.rolling, persistent=self.persistent
        )
        return action, cookie


NEW_ID = (Intent.REGENERATE, Intent.PRIVILEGE)
FLAGS = (False, True)
CASES = [Case(*facts) for facts in product(Row, Intent, FLAGS, FLAGS, FLAGS, FLAGS, FLAGS)]


def express(case: Case) -> tuple[set[str], bool]:
    """What express-session does: its store calls, and whether it sets the cookie.

    Its predicates `shouldDestroy`, `shouldSave`, `shouldTouch` and `shouldSetCookie`, word for
    word, of a session that is either new (its id is not the cookie's) or the cookie's own.
    """
    cookie_is_this_session = case.row is Row.LIVE and case.intent is Intent.KEEP
    # A new id is a change, and so is what `regenerate` in this package keeps.
    is_modified = case.changed or (case.row is Row.LIVE and case.intent in NEW_ID)
    # A session that was read counts as saved where `resave` is off.
    is_saved = cookie_is_this_session and not case.resave and not is_modified
    if not case.save_uninitialized and not cookie_is_this_session:
        should_save = is_modified
    else:
        should_save = not is_saved
    should_touch = cookie_is_this_session and not should_save
    if cookie_is_this_session:
        should_set_cookie = case.rolling or (case.persistent and is_modified)
    else:
        should_set_cookie = case.save_uninitialized or is_modified
    calls = {"set"} if should_save else {"touch"} if should_touch else set()
    return calls, should_set_cookie


def test_the_table_is_the_one_that_the_docs_print() -> None:
    """A changed decision is one changed line."""
    lines = [
        f"{row.name:8}{intent.name:12}{'save' if save else 'clean':7}{store.name:9}{cookie.name}"
        for (row, intent, save), (store, cookie) in OUTCOMES.items()
    ]
    assert "\n".join(lines).lower() == GOLDEN.strip()


def test_the_table_is_total() -> None:
    assert set(OUTCOMES) == set(product(Row, Intent, FLAGS))
    assert len(CASES) == 5 * 5 * 2**5


def every_case(check: Callable[[Case], None]) -> Callable[[], None]:
    """A test that makes its check of each of the cases."""

    def test() -> None:
        for case in CASES:
            try:
                check(case)
            except AssertionError as error:
                error.add_note(f"the case: {case}")
                raise

    test.__name__, test.__doc__ = check.__name__, check.__doc__
    return test


@every_case
def test_a_kept_session_is_treated_as_express_does(case: Case) -> None:
    if case.row not in (Row.UNBORN, Row.LIVE):
        return  # express always reads, and revives what has ended
    if case.intent not in (Intent.KEEP, *NEW_ID):
        return
    action, cookie = case.decided()
    calls, cookie_is_set = express(case)
    as_express = {
        StoreAction.INSERT: {"set"},
        StoreAction.REPLACE: {"set"},
        StoreAction.MOVE: {"set"},
        StoreAction.PROMOTE: {"set"},
        StoreAction.TOUCH: {"touch"},
        StoreAction.NOTHING: set(),
    }
    assert as_express[action] == calls
    assert (cookie is CookieAction.SET) is cookie_is_set


@every_case
def test_only_a_session_born_in_this_request_inserts(case: Case) -> None:
    """Promise 3: whatever ended can not come back through a save."""
    action, _ = case.decided()
    if action is StoreAction.INSERT:
        assert case.row is Row.UNBORN
    if action is StoreAction.RENEW:
        assert case.intent is Intent.DESTROY


@every_case
def test_what_ended_meanwhile_is_left_alone(case: Case) -> None:
    if case.row is Row.ENDED:
        assert case.decided() == (StoreAction.NOTHING, CookieAction.NONE)


@every_case
def test_what_was_not_read_is_not_written(case: Case) -> None:
    """Nobody looked, so nobody changed anything; destroying needs no look."""
    if case.row is Row.UNREAD and case.intent is not Intent.DESTROY:
        assert case.decided() == (StoreAction.NOTHING, CookieAction.NONE)


@every_case
def test_nothing_is_saved_of_an_abandoned_request(case: Case) -> None:
    if case.intent is Intent.ABANDON:
        assert case.decided() == (StoreAction.NOTHING, CookieAction.NONE)


@every_case
def test_no_change_and_no_option_is_no_write(case: Case) -> None:
    """Promise 4: an unchanged session is not rewritten."""
    asked = case.changed or case.resave or case.save_uninitialized
    if not asked and case.intent is Intent.KEEP:
        assert case.decided()[0] in (StoreAction.NOTHING, StoreAction.TOUCH)


@every_case
def test_a_destroyed_session_leaves_the_store(case: Case) -> None:
    if case.intent is Intent.DESTROY and case.row in (Row.LIVE, Row.GRACED, Row.UNREAD):
        action, cookie = case.decided()
        assert action is (StoreAction.RENEW if case.changed else StoreAction.DELETE)
        assert cookie is (CookieAction.SET if case.changed else CookieAction.CLEAR)


@every_case
def test_options_do_not_bring_a_destroyed_session_back(case: Case) -> None:
    """`save_uninitialized` and `resave` mean sessions that someone wants."""
    if case.intent is Intent.DESTROY and not case.changed:
        assert case.decided()[0] in (StoreAction.DELETE, StoreAction.NOTHING)


@every_case
def test_a_new_id_always_reaches_the_browser(case: Case) -> None:
    action, cookie = case.decided()
    if action in (StoreAction.INSERT, StoreAction.MOVE, StoreAction.PROMOTE, StoreAction.RENEW):
        assert cookie is CookieAction.SET


@every_case
def test_under_a_previous_id_no_cookie_is_set_but_that_of_another_session(case: Case) -> None:
    """The browser has the new id, or is about to get it from who made it."""
    if case.row is Row.GRACED:
        action, cookie = case.decided()
        if action in (StoreAction.NOTHING, StoreAction.TOUCH, StoreAction.REPLACE):
            assert cookie is CookieAction.NONE
        else:
            assert action in (StoreAction.PROMOTE, StoreAction.DELETE, StoreAction.RENEW)


@every_case
def test_a_change_of_privilege_leaves_no_old_id_alive(case: Case) -> None:
    """Promise 3 and session fixation, by whichever id the session was read."""
    if case.intent is Intent.PRIVILEGE:
        assert case.decided()[0] is not StoreAction.MOVE
        if case.row.is_read:
            assert case.decided()[0] is StoreAction.PROMOTE


@every_case
def test_a_cookie_is_only_set_for_a_row_that_is_there(case: Case) -> None:
    action, cookie = case.decided()
    if cookie is CookieAction.SET:
        assert action not in (StoreAction.NOTHING, StoreAction.DELETE)
    if cookie is CookieAction.CLEAR:
        assert action is StoreAction.DELETE


@every_case
def test_the_cookie_action_is_always_made_plain(case: Case) -> None:
    assert case.decided()[1] is not CookieAction.REFRESH

"""Customers: signing up and checking passwords."""

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from sqlalchemy import orm, select
from sqlalchemy.exc import IntegrityError

from .models import User

PASSWORD_LENGTH = range(8, 201)  # an upper limit, too: hashing costs the server time

_hasher = PasswordHasher()
_nobodys_hash = _hasher.hash("nobody")


class SignUpError(Exception):
    """Its message is for the visitor."""


def sign_up(db: orm.Session, name: str, email: str, password: str) -> User:
    if not name or len(name) > 80:
        raise SignUpError("Please tell us your name, in 80 letters or fewer.")
    if "@" not in email or len(email) > 254:
        raise SignUpError("That does not look like an e-mail address.")
    if len(password) not in PASSWORD_LENGTH:
        raise SignUpError("A password has 8 to 200 characters.")
    user = User(name=name, email=email.lower(), password_hash=_hasher.hash(password))
    db.add(user)
    try:
        db.flush()
    except IntegrityError:
        raise SignUpError("There is an account with that e-mail address already.") from None
    return user


def check_password(db: orm.Session, email: str, password: str) -> User | None:
    """The user, if there is one with this password."""
    if len(password) not in PASSWORD_LENGTH:
        return None
    user = db.scalar(select(User).where(User.email == email.lower()))
    try:
        # Nobody's hash takes as long as a real one, so the time does not tell who has an account.
        _hasher.verify(user.password_hash if user else _nobodys_hash, password)
    except VerifyMismatchError:
        return None
    if user and _hasher.check_needs_rehash(user.password_hash):
        user.password_hash = _hasher.hash(password)
    return user


def find_user(db: orm.Session, user_id: int) -> User | None:
    return db.get(User, user_id)

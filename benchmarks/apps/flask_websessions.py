"""Flask with websessions on psycopg, as it is shipped."""

from flask import Flask

from benchmarks.harness.data import SECRET
from benchmarks.harness.services import with_driver
from websessions.flask import WebSessions
from websessions.sql import SQLSessionStore

from .flask_views import add_views
from .handler import DATABASE_URL

store = SQLSessionStore(with_driver(DATABASE_URL, "psycopg"))
store.sync()
app = Flask(__name__)
WebSessions(app, store=store, secret=SECRET)
add_views(app)

"""Flask-Session on SQLAlchemy.

By default it writes every session that holds something back at every request; with REFRESH=0 it
writes only what changed.
"""

import os

from flask import Flask
from flask_session import Session
from flask_sqlalchemy import SQLAlchemy

from benchmarks.harness.services import with_driver

from .flask_views import add_views
from .handler import DATABASE_URL

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = with_driver(DATABASE_URL, "psycopg")
app.config["SESSION_TYPE"] = "sqlalchemy"
app.config["SESSION_SQLALCHEMY"] = SQLAlchemy(app)
app.config["SESSION_REFRESH_EACH_REQUEST"] = os.environ.get("REFRESH", "1") == "1"
Session(app)
add_views(app)

"""Flask without sessions."""

from flask import Flask

app = Flask(__name__)


@app.get("/read")
@app.get("/write")
def bare() -> str:
    return "0"

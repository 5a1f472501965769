"""Start the example on Flask's development server: `python examples/flask-app`.

DATABASE_URL names another database than the SQLite file in the folder `data`.
"""

import argparse

from app import create_app

parser = argparse.ArgumentParser(prog="flask-app", description=__doc__)
parser.add_argument("--port", type=int, default=5000)
create_app().run(port=parser.parse_args().port)

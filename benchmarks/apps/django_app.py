"""Django with its database sessions, or bare; persistent connections, no other middleware."""

from urllib.parse import urlsplit

import django
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

from benchmarks.harness.data import SECRET, session_data

from .handler import DATABASE_URL

_BARE = not DATABASE_URL
_url = urlsplit(DATABASE_URL)

settings.configure(
    SECRET_KEY=SECRET,
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=[] if _BARE else ["django.contrib.sessions"],
    MIDDLEWARE=[] if _BARE else ["django.contrib.sessions.middleware.SessionMiddleware"],
    DATABASES={}
    if _BARE
    else {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": _url.path.lstrip("/"),
            "USER": _url.username,
            "HOST": _url.hostname,
            "PORT": _url.port,
            "CONN_MAX_AGE": None,
        }
    },
)


def bare(request: HttpRequest) -> HttpResponse:
    return HttpResponse("0", content_type="text/plain")


def read(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(request.session.get("n", 0)), content_type="text/plain")


def write(request: HttpRequest) -> HttpResponse:
    request.session["n"] = request.session.get("n", 0) + 1
    return HttpResponse(str(request.session["n"]), content_type="text/plain")


def fill(request: HttpRequest) -> HttpResponse:
    request.session.update(session_data())
    return HttpResponse("0", content_type="text/plain")


urlpatterns = [
    path("read", bare if _BARE else read),
    path("write", bare if _BARE else write),
    path("fill", bare if _BARE else fill),
]

if not _BARE:
    django.setup()
    call_command("migrate", verbosity=0)
app = get_wsgi_application()

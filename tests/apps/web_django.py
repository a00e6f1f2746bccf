"""web_django: routes by Django. Each answer names the pattern that has served it, by the framework's own word.

`uvicorn web_django:asgi` and `gunicorn web_django:wsgi` serve it, `python web_django.py PORT` is Django's own server.
"""

import sys
import types

from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    ROOT_URLCONF="games_urls",
    SECRET_KEY="not secret",
    USE_TZ=True,
)

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import Http404, HttpResponse
from django.urls import include, path, re_path


def answer(request, **arguments):
    return HttpResponse(request.resolver_match.route)


def broken(request, reason):
    raise Http404(reason)


def module(name, *patterns):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].urlpatterns = list(patterns)
    return name


module(
    "games_urls",
    path("health", answer),
    path("games/latest", answer),
    path("games/<int:game_id>", answer),
    path("games/<slug:name>", answer),
    path("files/<path:rest>", answer),
    path("broken/<reason>", broken),
    re_path(r"^years/(?P<year>[0-9]{4})/$", answer),
    path(
        "shop/",
        include(
            module(
                "shop_urls",
                path("items/<item_id>", answer),
                re_path(r"^old/", include([re_path(r"^(\d+)-(?P<part>\w+)$", lambda request, part: answer(request))])),
                path("", answer),
            )
        ),
    ),
)

wsgi = get_wsgi_application()
asgi = get_asgi_application()

if __name__ == "__main__":
    from django.core.management import execute_from_command_line

    execute_from_command_line([sys.argv[0], "runserver", "--noreload", f"127.0.0.1:{sys.argv[1]}"])

#!/bin/sh
# From a bare Debian 12 to the table of the laboratory, as root: what Python needs, what Debian has, all scenarios.
# Words are handed on to `python -m captures.lab`. The environment .venv is made here, if it lacks what that needs.
set -eu
cd "$(dirname "$0")/../.."
if ! .venv/bin/python -c 'import impacket, importlib.metadata as found; found.version("exflow")' 2>/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv
    python3 -m venv .venv
    .venv/bin/pip install -q -e '.[test]'
fi
exec .venv/bin/python -m captures.lab --install "$@"

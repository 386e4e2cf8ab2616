#!/bin/sh
# From a bare Debian 12 to the table of the laboratory, as root: what Python needs, what Debian has, all scenarios.
# Words are handed on to `python -m captures.lab`. The environment .venv is made here, if there is none.
set -eu
cd "$(dirname "$0")/../.."
if [ ! -x .venv/bin/python ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv
    python3 -m venv .venv
    .venv/bin/pip install -q -e '.[test]'
fi
exec .venv/bin/python -m captures.lab --install "$@"

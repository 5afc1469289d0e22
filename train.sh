#!/usr/bin/env bash
# Train from a checkout, as older set-ups do: reads config/config.env, enters the virtual environment, starts `tuner train`.
set -euo pipefail
cd "$(dirname "$0")"
if [ -f config/config.env ]; then
    # Only what names the environment and the configuration; tuner reads everything else itself.
    while IFS= read -r line; do
        export "${line?}"
    done < <(sed -nE "s/^(export +)?(VENV_PATH|ENV|SIMPLETUNER_ENV|SIMPLETUNER_ENVIRONMENT|CONFIG_BACKEND|CONFIG_PATH)=[\"']?([^\"'#]*[^\"'# ])[\"']?.*/\2=\3/p" config/config.env)
fi
venv="${VENV_PATH:-.venv}"
if [ -f "$venv/bin/activate" ]; then
    # shellcheck disable=SC1091
    . "$venv/bin/activate"
fi
if ! command -v tuner > /dev/null; then
    echo "error: tuner is not installed in $venv; run 'make install', or set VENV_PATH in config/config.env" >&2
    exit 1
fi
exec tuner train "$@"

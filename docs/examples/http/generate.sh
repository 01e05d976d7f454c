#!/usr/bin/env bash
# generate.sh OUTPUT: makes a video by plain HTTP, as n8n, Make, Zapier and shell scripts do: submit, poll, download.
# Set ADASPA_SERVER to the service's address and ADASPA_API_KEY to your key. Needs curl and python3.
set -euo pipefail
url=${ADASPA_SERVER:-http://127.0.0.1:8000}/v1/videos
ask=(curl --silent --show-error --fail-with-body --retry 3 -H "Authorization: Bearer ${ADASPA_API_KEY:-none}")
field() { python3 -c "import json, sys; print(json.load(sys.stdin)['$1'])"; }

# The server holds the answer for up to 50 s, which is enough for a short clip.
video=$("${ask[@]}" "$url" -H 'Content-Type: application/json' -H 'Prefer: wait=50' -H "Idempotency-Key: $RANDOM$RANDOM-$$" \
  -d '{"prompt": "a large red circle moves left", "model": "demo", "steps": 4, "seed": 7, "metadata": {"run": "17"}}')
id=$(field id <<<"$video")
until [[ $(field status <<<"$video") =~ completed|failed|cancelled ]]; do
  sleep 2
  video=$("${ask[@]}" "$url/$id")
done
[ "$(field status <<<"$video")" = completed ] || { echo "$id: $(field error <<<"$video")" >&2; exit 1; }
"${ask[@]}" "$url/$id/content" -o "$1"
echo "$id"

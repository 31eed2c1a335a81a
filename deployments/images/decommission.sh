#!/bin/sh
# Before an executor's pod ends (spark.kubernetes.decommission.script): SIGPWR makes it hand over what it holds,
# and it ends by itself. Kubernetes waits for this script, at most the pod's grace time.
set -eu
pid=$(pgrep -o -x java) || exit 0
kill -s PWR "$pid"
while kill -0 "$pid" 2>/dev/null; do sleep 1; done

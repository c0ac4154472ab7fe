#!/usr/bin/env bash
# What action.yml runs. Everything comes by variables: see its `env`.
set -euo pipefail

program="${EXEAT_ACTION_PROGRAM:-exeat}"
# Empty for the command, which must not write what it, or a step before it, has reached.
folder="${RUNNER_TEMP:?}/exeat"
mkdir -p "$folder"
audit="$(mktemp "$folder/XXXXXX.jsonl")"
flags=(--audit "$audit" --hide "$folder")

case "${EXEAT_ACTION_MODE:-enforce}" in
    enforce) ;;
    report) flags+=(--report) ;;
    *)
        printf '::error::mode is "enforce" or "report"\n'
        exit 2
        ;;
esac
case "${EXEAT_ACTION_FAIL:-false}" in
    false) ;;
    true) flags+=(--fail-on-deny) ;;
    *)
        printf '::error::fail-on-deny is "true" or "false"\n'
        exit 2
        ;;
esac
[[ -z "${EXEAT_ACTION_USER:-}" ]] || flags+=(--user "$EXEAT_ACTION_USER")
while IFS= read -r line; do
    entry="${line%%#*}"
    entry="${entry//[[:space:]]/}"
    [[ -z "$entry" ]] || flags+=(--allow="$entry")
done <<<"${EXEAT_ACTION_HOSTS:-}"

# With these files a step steers the ones after it, so they are not for the command.
for steering in "${GITHUB_ENV:-}" "${GITHUB_PATH:-}" "${GITHUB_OUTPUT:-}" "${GITHUB_STATE:-}" "${GITHUB_STEP_SUMMARY:-}"; do
    [[ -z "$steering" || ! -e "$steering" ]] || flags+=(--hide "$steering")
done

which_folder() { stat -c %d:%i "$folder"; }
before="$(which_folder)"
status=0
env -u EXEAT_ACTION_RUN "$program" run "${flags[@]}" -- bash -euo pipefail -c "$EXEAT_ACTION_RUN" || status=$?

if [[ "$(which_folder)" != "$before" ]]; then
    printf '::error::the command has put another folder in place of that of the audit log\n'
    exit 1
fi
[[ -z "${GITHUB_OUTPUT:-}" ]] || printf 'audit-log=%s\n' "$audit" >>"$GITHUB_OUTPUT"
if [[ -n "${GITHUB_STEP_SUMMARY:-}" ]]; then
    {
        printf '### Exeat: what the step reached\n\nMode %s, status %d. The smallest policy for it:\n\n' \
            "${EXEAT_ACTION_MODE:-enforce}" "$status"
        printf '```toml\n'
        "$program" suggest "$audit" 2>/dev/null || printf '# nothing was reached\n'
        printf '```\n'
    } >>"$GITHUB_STEP_SUMMARY"
fi
exit "$status"

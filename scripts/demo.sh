#!/usr/bin/env bash
# Demonstrates Roadstead in a minute, with real programs and without the internet. Each act is a function;
# `promise` ends the demo with an error if its statement is not true.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

roadstead=${ROADSTEAD:-$PWD/target/quick/roadstead}
repository=$PWD
megabit=200 # the line to the upstream
[[ -x $roadstead ]] || die "$roadstead is not built: make demo"
for part in docker-registry skopeo python3; do
    has "$part" || die "the demo needs $part: scripts/real-parts.sh installs it"
done

stage=$(mktemp -d)
pids=()
clean_up() {
    local status=$?
    trap - EXIT
    ((${#pids[@]} == 0)) || kill "${pids[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    if ((status != 0)); then
        warn "the demo failed; the last lines of the gateway's log:"
        tail -n 5 "$stage/gateway.log" 2>/dev/null | cut -c1-300 >&2 || true
    fi
    rm -rf "$stage"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM
cd "$stage"

# ---- output ----

act() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
tell() { printf '%s\n' "$*"; }
shown() { printf '%s  $ %s%s\n' "$dim" "$*" "$plain"; }
promise() {
    local what=$1
    shift
    if "$@"; then
        printf '  %s✓%s %s\n' "$green" "$plain" "$what"
    else
        printf '  %s✗ %s%s\n' "$red" "$what" "$plain"
        exit 1
    fi
}
mib() { awk -v bytes="$1" 'BEGIN { printf "%.1f MiB", bytes / 1048576 }'; }

# Waits up to 30 seconds for a line in a file; prints the match after the pattern's `\K`.
await() {
    local pattern=$1 file=$2 found
    for _ in $(seq 300); do
        if found=$(grep -oPm1 "$pattern" "$file" 2>/dev/null); then
            printf '%s' "$found"
            return
        fi
        sleep 0.1
    done
    die "timed out waiting for $pattern in $file"
}

# ---- upstream requests ----

# Sets requests, manifests, blobs, bytes and repeated from the lines of the upstream's access log ($1, or that of
# docker-registry) after line $from; repeated is the number of blobs requested more than once. Bytes are those of
# GETs.
count_upstream() {
    sleep 0.3 # the last line may not be written yet
    local counted log=${1:-access.log}
    counted=$(tail -n "+$((from + 1))" "$log" | awk -F'"' '
        $2 ~ /^(GET|HEAD) / {
            split($3, result, " ")
            requests++
            if ($2 ~ /^GET .*\/manifests\//) manifests++
            if ($2 ~ /^GET .*\/blobs\//) { blobs++; if (++gets[$2] == 2) repeated++ }
            if ($2 ~ /^GET /) bytes += result[2]
        }
        END { print requests + 0, manifests + 0, blobs + 0, bytes + 0, repeated + 0 }')
    read -r requests manifests blobs bytes repeated <<<"$counted"
    from=$(wc -l <"$log")
}

rows=()
# Adds a row to the table: the counts, their ratio to the image's size ($3 is a copy of it), and the time.
note() {
    times=$(awk -v sent="$bytes" -v image="$(cat "$3"/* | wc -c)" 'BEGIN { printf "%.2f", sent / image }')
    rows+=("$1|$requests|$manifests|$blobs|$(mib "$bytes")|$times|$2 s")
}

# Runs a command; sets `took` to its seconds.
timed() {
    local started=$EPOCHREALTIME
    "$@"
    took=$(awk -v a="$started" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
}

# ---- acts ----

serve_upstream() {
    docker-registry serve upstream.yml >>access.log 2>upstream.log &
    registry=$!
    pids+=("$registry")
}

# Stops a program that this script started.
stop() {
    kill "$1"
    wait "$1" 2>/dev/null || true
}

start_upstream() {
    act "1. A registry, far away"
    tell "Debian's docker-registry plays the upstream, behind a line of $megabit Mbit/s. It gets three images"
    tell "that the gateway does not have yet."
    cat >upstream.yml <<YAML
version: 0.1
log: {level: info, accesslog: {disabled: false}}
storage: {filesystem: {rootdirectory: $stage/upstream}}
http: {addr: "127.0.0.1:0", secret: demo}
YAML
    shown "docker-registry serve upstream.yml"
    serve_upstream
    upstream=$(await 'listening on \K127[0-9.:]+' upstream.log)
    python3 "$repository/scripts/oci.py" images app 100 4
    python3 "$repository/scripts/oci.py" images other 40 24
    python3 "$repository/scripts/oci.py" images third 24 16 8
    for image in app other third; do
        shown "skopeo copy oci:images:$image docker://$upstream/demo/$image:1"
        skopeo --insecure-policy copy --quiet --preserve-digests --dest-tls-verify=false \
            "oci:images:$image" "docker://$upstream/demo/$image:1"
    done
    rm -rf images
    python3 "$repository/scripts/line.py" "$upstream" "$megabit" >line.log 2>&1 &
    pids+=($!)
    far="127.0.0.1:$(await '^port \K.*' line.log)"
}

start_gateway() {
    act "2. Roadstead in front of it"
    tell "Its certificate comes from its own CA, created at this first start."
    cat >roadstead.yaml <<YAML
listen:
  - address: "127.0.0.1:0"
admin: {address: off}
registries:
  - {name: registry.example, v2: "http://$far"}
YAML
    sed 's/^/    /' roadstead.yaml
    serve_gateway
    gateway=$(await '^listening on https://\K.*' gateway.out)
    mkdir trust
    cp var/keys/ca.pem trust/ca.crt
    tell "  it listens on https://$gateway"
    from=$(wc -l <access.log)
}

serve_gateway() {
    shown "roadstead serve -c roadstead.yaml"
    "$roadstead" serve -c roadstead.yaml >gateway.out 2>>gateway.log &
    serving=$!
    pids+=("$serving")
    await '^ready' gateway.out >/dev/null
}

# Restarts the gateway at its address, with its upstream at $1 and more YAML ($2).
restart_gateway() {
    stop "$serving"
    : >gateway.out
    cat >roadstead.yaml <<YAML
listen:
  - address: "$gateway"
admin: {address: off}
registries:
  - {name: registry.example, v2: "http://$1"}
$2
YAML
    serve_gateway
}

# Pulls an image through the gateway into an empty folder, over TLS, trusting only its CA.
pull() {
    skopeo --insecure-policy copy --quiet --preserve-digests --src-cert-dir=trust \
        "docker://$gateway/demo/$1:1" "dir:$2"
}

cold_pull() {
    act "3. The first pull: nothing is cached yet"
    shown "skopeo copy docker://$gateway/demo/app:1 dir:first"
    timed pull app first
    count_upstream
    note "first pull" "$took" first
    promise "the image was pulled: 3 blobs, each with one upstream request" test "$blobs,$repeated" = 3,0
}

warm_pull() {
    act "4. The second host pulls the same image"
    shown "skopeo copy docker://$gateway/demo/app:1 dir:second"
    timed pull app second
    count_upstream
    note "second pull" "$took" second
    promise "no upstream request, no bytes from upstream" test "$requests,$bytes" = 0,0
    promise "both have the same files, byte for byte" diff -rq first second
    rm -rf second
}

together() {
    local one each=()
    for one in {1..8}; do
        pull other "host$one" &
        each+=($!)
    done
    for one in "${each[@]}"; do wait "$one"; done
}

eight_cold_pulls() {
    act "5. Eight hosts at once pull an image that is not cached yet"
    shown "for i in {1..8}; do skopeo copy docker://$gateway/demo/other:1 dir:host\$i & done; wait"
    timed together
    count_upstream
    note "eight pulls at once" "$took" host1
    promise "all eight have it, with one upstream request for each of the 3 blobs" \
        test "$blobs,$repeated" = 3,0
    for one in {2..8}; do
        diff -rq host1 "host$one" || die "host1 and host$one differ"
    done
    rm -rf host?
}

# Prints the response headers of a manifest that concern its age.
manifest_headers() {
    python3 - "$gateway" "/v2/demo/$1/manifests/1" <<'PYTHON'
import http.client, ssl, sys

trust = ssl.create_default_context(cafile="trust/ca.crt")
client = http.client.HTTPSConnection(sys.argv[1], context=trust)
client.request("GET", sys.argv[2])
answer = client.getresponse()
print(f"    HTTP {answer.status}")
for name in ("Age", "Warning", "Cache-Status"):
    print(f"    {name}: {answer.headers[name]}")
PYTHON
}

pull_without_upstream() {
    act "6. The upstream stops, and the gateway restarts"
    tell "With tag_ttl 0s it has to revalidate every tag upstream, and cannot."
    stop "$registry"
    restart_gateway "$far" "store: {tag_ttl: 0s}"
    shown "skopeo copy docker://$gateway/demo/app:1 dir:third"
    timed pull app third
    count_upstream
    note "upstream stopped" "$took" third
    promise "the pull works as before, with the same files" diff -rq first third
    tell "  and the response says how old it is:"
    manifest_headers app
    rm -rf first third
}

# Retries a pull until it works, as clients do; counts the tries.
pull_stubbornly() {
    for tries in {1..3}; do
        rm -rf "$2"
        pull "$@" 2>pull.log && return
        tell "  try $tries ended: $(tail -n 1 pull.log | tr -d '"' | sed 's/.*: //')"
    done
    return 1
}

pull_from_a_broken_upstream() {
    act "7. The upstream is back, but faulty"
    sed -i "s/addr: .*\"/addr: \"$upstream\"/" upstream.yml
    serve_upstream
    await 'listening on \K127' upstream.log >/dev/null
    skopeo --insecure-policy copy --quiet --preserve-digests --src-tls-verify=false \
        "docker://$upstream/demo/third:1" dir:honest
    local corrupted
    corrupted=$(skopeo inspect --tls-verify=false --format '{{index .Layers 1}}' "docker://$upstream/demo/third:1")
    tell "A faulty proxy in front of it cuts off the first response of every layer at 60 %, and once sends"
    tell "wrong bytes for the rest of the second layer (16 MiB)."
    python3 "$repository/scripts/flaky.py" "$far" "$corrupted" >flaky.out 2>flaky.log &
    pids+=($!)
    restart_gateway "127.0.0.1:$(await '^port \K.*' flaky.out)" ""
    from=0
    shown "skopeo copy docker://$gateway/demo/third:1 dir:fourth"
    timed pull_stubbornly third fourth
    count_upstream flaky.log
    note "upstream broken" "$took" fourth
    promise "the pull succeeded at try $tries, byte for byte as the registry has it" diff -rq honest fourth
    promise "the cuts cost no bytes, the wrong bytes one layer: $times images were sent instead of 1.00" \
        test "$bytes" -lt "$(($(cat honest/* | wc -c) + (17 << 20)))"
    rm -rf honest fourth
}

bill() {
    act "The cost"
    {
        echo "|requests|manifests|blobs|bytes|times|time"
        echo "|upstream|||from upstream|the image|"
        printf '%s\n' "${rows[@]}"
    } | python3 -c '
import sys
rows = [line.rstrip("\n").split("|") for line in sys.stdin]
widths = [max(map(len, column)) for column in zip(*rows)]
for row in rows:
    first, rest = row[0].ljust(widths[0]), zip(row[1:], widths[1:])
    print("  " + "  ".join([first, *(cell.rjust(width) for cell, width in rest)]).rstrip())'
    tell
    tell "Every promise held. \`make run\` serves Docker Hub in the same way; docs/recipes says how clients use it."
}

start_upstream
start_gateway
cold_pull
warm_pull
eight_cold_pulls
pull_without_upstream
pull_from_a_broken_upstream
bill

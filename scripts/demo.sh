#!/usr/bin/env bash
# The story of the README in a lab of its own: a cluster, Landfall installed by Helm, hello-world reached from a
# client outside the cluster, source ranges, and the announcing node lost. Run it by 'make demo'.
set -Eeuo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

# A name of its own, so that no other lab is disturbed.
export LANDFALL_LAB=demo
lab=${LAB:-$(target_dir)/debug/lab}
cli=$(target_dir)/debug/kubectl-landfall
service=hello-world
client_address=192.0.2.200

started=${EPOCHREALTIME/[.,]/}
passed=no

# seconds FROM: since a time stamp taken as ${EPOCHREALTIME/[.,]/}.
seconds() {
    local micros=$((${EPOCHREALTIME/[.,]/} - $1))
    printf '%d.%02d' $((micros / 1000000)) $((micros / 10000 % 100))
}
now() { echo "${EPOCHREALTIME/[.,]/}"; }
step() { printf '\n[%6s s] %s\n' "$(seconds "$started")" "$*"; }
note() { printf '           %s\n' "$*"; }
indent() { sed 's/^/           /'; }
kubectl() { "$lab" kubectl "$@"; }
on() { local host=$1; shift; "$lab" exec "$host" -- "$@"; }
# ask HOST: one request on a connection of its own; the answer in one line.
ask() { on "$1" curl --silent --show-error --fail --max-time 1 "http://$address/" 2> /dev/null | tr '\n' ' '; }

# until_true SECONDS WHAT COMMAND...: tries again until the command succeeds.
until_true() {
    local limit=$1 what=$2 from
    shift 2
    from=$(now)
    until "$@"; do
        [ $(($(now) - from)) -lt $((limit * 1000000)) ] || { note "waited $limit s in vain: $what"; return 1; }
        sleep 0.02
    done
}

# What a person would look at first.
show_state() {
    set +e
    "$lab" status || return
    printf '\n---- state of the cluster\n'
    kubectl get nodes,services,endpointslices,pods --all-namespaces -o wide
    kubectl get addresspools,l2advertisements,speakerstatuses -o yaml
    kubectl describe service "$service"
    kubectl get events --all-namespaces --sort-by=.lastTimestamp | tail -n 40
    for component in controller speaker; do
        printf -- '---- log of the %ss\n' "$component"
        kubectl --namespace landfall-system logs --selector "app.kubernetes.io/component=$component" --prefix --tail 40
    done
    for node in n1 n2 n3; do
        printf -- '---- %s\n' "$node"
        on "$node" nft list table inet landfall | head -n 80
    done
    printf -- '---- neighbours of the clients\n'
    on client ip neighbour show
    on client2 ip neighbour show
}

finish() {
    trap - EXIT INT TERM ERR
    [ "$passed" = yes ] || show_state 2>&1 || true
    "$lab" down || passed=no
    if [ "$passed" = yes ]; then
        step "cleaned up"
        echo "demo: passed"
        exit 0
    fi
    echo "demo: FAILED" >&2
    exit 1
}
trap finish EXIT
trap 'note "line $LINENO failed: $BASH_COMMAND"' ERR
trap 'exit 130' INT
trap 'exit 143' TERM

has_address() {
    address=$(kubectl get service "$service" --output 'jsonpath={.status.loadBalancer.ingress[0].ip}')
    [ -n "$address" ]
}
# The plugin runs on the lab's network, where the API server is.
status() { on router env KUBECONFIG="$(state_folder)/admin.kubeconfig" "$cli" status; }
state_folder() { "$lab" status | sed -n 's/^logs and state *//p'; }
answers() { ask "$1" > /dev/null; }
# One request; its pod is counted in by_pod.
declare -A by_pod=()
ask_and_count() {
    local pod
    answer=$(ask client)
    pod=$(grep --only-matching 'hello-world-[a-z0-9]*' <<< "$answer" | head -n 1)
    by_pod[$pod]=$((${by_pod[$pod]:-0} + 1))
}
both_answered() { ask_and_count && [ ${#by_pod[@]} -eq 2 ]; }
shut_out() { ! answers "$1"; }
# The MAC address that the client has learnt for the Service's address.
learnt() { on client ip neighbour show "$address" | sed -n 's/.*lladdr \([0-9a-f:]*\).*/\1/p'; }
# The node that has this MAC address.
node_of() {
    local mac=$1 node
    for node in n1 n2 n3; do
        if on "$node" ip -oneline link show | grep "$mac" > /dev/null; then echo "$node"; return; fi
    done
    return 1
}
moved() { answer=$(ask client) && [ "$(learnt)" != "$mac" ]; }
set_ranges() { kubectl patch service "$service" --type merge --patch "{\"spec\":{\"loadBalancerSourceRanges\":$1}}" > /dev/null; }

step "a cluster: the real Kubernetes, three nodes in namespaces, two clients outside"
"$lab" up --nodes 3 | indent
kubectl get nodes | indent

step "helm install landfall"
"$lab" install | grep -E '^(STATUS|REVISION|DESCRIPTION):' | indent
kubectl --namespace landfall-system get pods --output wide | cut -c 1-100 | indent

step "a pool of addresses (docs/examples/addresspool.yaml)"
kubectl apply --filename docs/examples/addresspool.yaml | indent

step "hello-world as its users know it (docs/examples/hello-world.yaml): two replicas, a Service 80 -> 8080"
created=$(now)
kubectl apply --filename docs/examples/hello-world.yaml | indent
until_true 10 "the Service has an address" has_address
note "EXTERNAL-IP $address, $(seconds "$created") s after it was applied (a part of that is kubectl itself)"
kubectl wait pods --selector app=hello-world --for condition=Ready --timeout 30s | indent
until_true 10 "an answer at the client" answers client
note "first answer seen $(seconds "$created") s after it was applied, with the pods' own start"
until_true 10 "answers by both pods" both_answered
kubectl get service,pods --selector app=hello-world --output wide | cut -c 1-100 | indent

step "20 requests from the client"
requests=$(now)
by_pod=()
for _ in {1..20}; do ask_and_count; done
note "all answered in $(seconds "$requests") s; the last one: $answer"
for pod in "${!by_pod[@]}"; do note "$pod answered ${by_pod[$pod]}"; done
[ ${#by_pod[@]} -eq 2 ] || { note "two pods should have answered"; exit 1; }

step "who is $address on the LAN?"
on client ip neighbour show "$address" | indent
mac=$(learnt)
owner=$(node_of "$mac")
note "that is $owner"
status | indent

step "loadBalancerSourceRanges: [$client_address/32]"
changed=$(now)
set_ranges "[\"$client_address/32\"]"
until_true 10 "client2 is shut out" shut_out client2
note "client2 gets no answer"
for _ in 1 2 3; do answers client || { note "client was shut out too"; exit 1; }; done
note "client is answered; $(seconds "$changed") s, of which 1 s is client2 waiting in vain"
changed=$(now)
set_ranges null
until_true 10 "client2 is answered again" answers client2
note "ranges taken away: client2 is answered again after $(seconds "$changed") s"

step "$owner falls silent: its frames vanish, and it does not know"
lost=$(now)
"$lab" fault silence "$owner"
until_true 60 "another node serves $address" moved
mac=$(learnt)
note "first answer by $(node_of "$mac") after $(seconds "$lost") s: $answer"
on client ip neighbour show "$address" | indent

passed=yes
step "clean-up"

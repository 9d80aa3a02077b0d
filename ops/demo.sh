#!/usr/bin/env bash
# A proxy, a server and Prometheus on this machine, from the files beside this script: some load, then every query of the
# dashboard is answered and printed. Needs no privileges: Debian's programs are unpacked, not installed (scripts/programs), all
# of it listens on the loopback and lives in a directory that is removed. The exit code says whether each query had an answer.
set -euo pipefail
ops="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$ops")"

"$root/scripts/environment"
venv="${VENV:-.venv}"
[[ "$venv" == /* ]] || venv="$root/$venv"
programs="$("$root/scripts/programs")"
place="$(mktemp -d -t chroma-async-demo.XXXXXX)"
started=()

finish() {
    local pid
    for ((i = ${#started[@]} - 1; i >= 0; i--)); do
        pid="${started[i]}"
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "$place"
}
trap finish EXIT
trap 'exit 130' INT TERM

debian() {
    local libraries
    libraries="$(printf '%s:' "$programs"/usr/lib/*-linux-gnu* "$programs"/lib/*-linux-gnu*)"
    LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:-}" exec "$@"
}

free_ports() {
    "$venv/bin/python" -c '
import socket
taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(probe.getsockname()[1] for probe in taken))'
}

wait_for() {
    local name="$1" pid="$2"
    shift 2
    for _ in {1..300}; do
        if "$@" >/dev/null 2>&1; then
            return
        fi
        if ! kill -0 "$pid" 2>/dev/null; then
            break
        fi
        sleep 0.1
    done
    echo "$name is not at work:" >&2
    tail -n 20 "$place/$name.log" >&2
    exit 1
}

answers() {
    "$venv/bin/python" -c '
import sys, httpx
sys.exit(httpx.get(sys.argv[1]).status_code != 200)' "$1"
}

read -r proxy_port metrics_port prometheus_port <<<"$(free_ports)"
socket="$place/chroma-async.sock"
password="$(head -c 18 /dev/urandom | base64)"

# Who may call, and a certificate for the proxy.
(debian "$programs/usr/bin/htpasswd" -iBn demo) <<<"$password" >"$place/users" 2>/dev/null
printf '%s' "$password" >"$place/password"
(debian "$programs/usr/bin/openssl" req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost -keyout "$place/privkey.pem" -out "$place/fullchain.pem") 2>/dev/null

# The server, on a unix socket.
"$venv/bin/chroma-async" run --path "$place/data" --unix-socket "$socket" --trusted-proxy unix --metrics \
    --auth-basic-file "$place/users" >"$place/server.log" 2>&1 &
started+=("$!")
wait_for server "$!" "$venv/bin/chroma-async" healthcheck --unix-socket "$socket"

# The proxy: addresses and paths are all that changes.
mkdir "$place/conf.d"
for file in "$ops"/nginx/*.conf; do
    sed -e "s|listen 443 |listen 127.0.0.1:$proxy_port |" -e "s|127.0.0.1:9464|127.0.0.1:$metrics_port|" \
        -e "s|chroma.example.org|localhost|" -e "s|/etc/ssl/chroma-async|$place|" -e "s|/run/chroma-async.sock|$socket|" \
        "$file" >"$place/conf.d/${file##*/}"
done
cat >"$place/nginx.conf" <<CONFIGURATION
daemon off;
$([[ "$(id -u)" -ne 0 ]] || echo "user root;")
pid $place/nginx.pid;
error_log $place/nginx.log;
events {}
http {
    access_log off;
    client_body_temp_path $place/body;
    proxy_temp_path $place/proxy;
    fastcgi_temp_path $place/fastcgi;
    uwsgi_temp_path $place/uwsgi;
    scgi_temp_path $place/scgi;
    include conf.d/*.conf;
}
CONFIGURATION
(debian "$programs/usr/sbin/nginx" -p "$place" -c "$place/nginx.conf" -e "$place/nginx.log") >"$place/nginx.log" 2>&1 &
started+=("$!")
wait_for nginx "$!" test -s "$place/nginx.pid"

# Prometheus, which asks more often than it does in earnest.
cp "$ops/prometheus/chroma-async.rules.yml" "$place"
sed -e "s|127.0.0.1:9464|127.0.0.1:$metrics_port|" -e "s|_interval: 15s|_interval: 1s|" -e "s|# *\(basic_auth:\)|\1|" \
    -e "s|# *\(username:\).*|  \1 demo|" -e "s|# *\(password_file:\).*|  \1 $place/password|" \
    "$ops/prometheus/prometheus.yml" >"$place/prometheus.yml"
(debian "$programs/usr/bin/prometheus" --config.file="$place/prometheus.yml" --storage.tsdb.path="$place/series" \
    --web.listen-address="127.0.0.1:$prometheus_port") >"$place/prometheus.log" 2>&1 &
started+=("$!")
wait_for prometheus "$!" answers "http://127.0.0.1:$prometheus_port/-/ready"

echo "server      unix://$socket"
echo "proxy       https://localhost:$proxy_port"
echo "Prometheus  http://127.0.0.1:$prometheus_port"
"$venv/bin/python" "$ops/demo.py" load "https://localhost:$proxy_port" "$place/fullchain.pem" demo "$password"
"$venv/bin/python" "$ops/demo.py" ask "http://127.0.0.1:$prometheus_port" "$ops/grafana/dashboards/chroma-async.json"

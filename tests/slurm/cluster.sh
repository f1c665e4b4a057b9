#!/usr/bin/env bash
# A SLURM cluster on this machine, for tests: three nodes that pretend to have 32 CPUs, 200 GB and two GPUs each.
#
#   tests/slurm/cluster.sh start    install SLURM (Debian packages, as root) if it is missing, and start the cluster
#   tests/slurm/cluster.sh stop     cancel its jobs, stop it, remove its files
#   tests/slurm/cluster.sh status   nodes and jobs
#   tests/slurm/cluster.sh node N   start node N (1 to 3) again
#   tests/slurm/cluster.sh control  start slurmctld again
#
# Partitions: cpu (the default), gpu, low and lowcancel. Jobs of the last two give way to those of cpu and gpu:
# jobs of low are requeued, jobs of lowcancel are cancelled.
# Everything lies in .slurm/, but for /etc/slurm, where SLURM insists on its configuration.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)/.slurm
mark="# unet test cluster: $here"

fail() { echo "cluster.sh: $*" >&2; exit 1; }

packages() {
    command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v srun >/dev/null && return
    command -v apt-get >/dev/null ||
        fail "no SLURM, and no apt-get to install it with; install slurmctld, slurmd and the client"
    echo "cluster.sh: installing slurmctld, slurmd and slurm-client"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update && apt-get install -y --no-install-recommends slurmctld slurmd slurm-client; } \
        >"$here/install.log" 2>&1 ||
        fail "installing failed; see $here/install.log"
}

configure() {
    host=$(hostname -s)
    for gpu in 1 2 3 4 5 6; do [ -e "$here/gpu$gpu" ] || mknod "$here/gpu$gpu" c 1 3; done
    mkdir -p /etc/slurm
    cat >/etc/slurm/slurm.conf <<END
$mark
ClusterName=unet
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
StateSaveLocation=$here/state
SlurmdSpoolDir=$here/spool.%n
SlurmctldPidFile=$here/slurmctld.pid
SlurmdPidFile=$here/slurmd.%n.pid
SlurmctldLogFile=$here/slurmctld.log
SlurmdLogFile=$here/slurmd.%n.log
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$here/jobs.txt
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
JobAcctGatherParams=OverMemoryKill
JobSubmitPlugins=lua
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=10
KillWait=10
MinJobAge=3600
MpiDefault=none
GresTypes=gpu
SchedulerParameters=sched_interval=2,bf_interval=2
DefMemPerCPU=500
NodeName=node1 NodeHostname=$host NodeAddr=127.0.0.1 Port=16821 CPUs=32 RealMemory=200000 Gres=gpu:2
NodeName=node2 NodeHostname=$host NodeAddr=127.0.0.1 Port=16822 CPUs=32 RealMemory=200000 Gres=gpu:2
NodeName=node3 NodeHostname=$host NodeAddr=127.0.0.1 Port=16823 CPUs=32 RealMemory=200000 Gres=gpu:2
PartitionName=cpu Nodes=node[1-3] Default=YES PriorityTier=2 PreemptMode=OFF
PartitionName=gpu Nodes=node[1-3] PriorityTier=2 PreemptMode=OFF
PartitionName=low Nodes=node[1-3] PriorityTier=1 PreemptMode=REQUEUE
PartitionName=lowcancel Nodes=node[1-3] PriorityTier=1 PreemptMode=CANCEL
END
    cat >/etc/slurm/gres.conf <<END
$mark
NodeName=node1 Name=gpu File=$here/gpu[1-2]
NodeName=node2 Name=gpu File=$here/gpu[3-4]
NodeName=node3 Name=gpu File=$here/gpu[5-6]
END
    # Without an accounting database SLURM takes any account; sites that have none refuse them in such a script.
    cat >/etc/slurm/job_submit.lua <<END
-- ${mark#\# }
function slurm_job_submit(job, partitions, user)
    if job.account == "nobody" then
        slurm.log_user("account nobody is not known here")
        return slurm.ESLURM_INVALID_ACCOUNT
    end
    return slurm.SUCCESS
end
function slurm_job_modify(job, record, partitions, user) return slurm.SUCCESS end
END
}

ours() { grep -qsxF "$mark" /etc/slurm/slurm.conf; }

node() {
    mkdir -p "$here/spool.node$1"
    slurmd -N "node$1"
}

start() {
    [ "$(id -u)" = 0 ] || fail "the cluster runs as root; in a container, for example"
    if [ -e /etc/slurm/slurm.conf ] && ! ours; then
        fail "/etc/slurm/slurm.conf belongs to another cluster; nothing was changed"
    fi
    if ours && scontrol ping 2>/dev/null | grep -q UP; then echo "cluster.sh: already running"; return; fi
    mkdir -p "$here/state"
    packages
    configure
    slurmctld
    for n in 1 2 3; do node "$n"; done
    for _ in $(seq 60); do
        if [ "$(sinfo --noheader --Node --partition cpu --states idle 2>/dev/null | wc -l)" = 3 ]; then
            echo "cluster.sh: running"
            return
        fi
        sleep 0.5
    done
    fail "the nodes did not come up; see $here/slurmctld.log"
}

pids() { cat "$here"/slurmctld.pid "$here"/slurmd.node[123].pid 2>/dev/null || true; }

stop() {
    ours || { echo "cluster.sh: not running"; return; }
    timeout 10 scancel --state=PENDING --user=root 2>/dev/null || true
    timeout 10 scancel --user=root 2>/dev/null || true
    for _ in $(seq 40); do
        [ -z "$(timeout 5 squeue --noheader 2>/dev/null)" ] && break
        sleep 0.5
    done
    processes=$(pids)
    # shellcheck disable=SC2086 # several numbers
    [ -z "$processes" ] || kill $processes 2>/dev/null || true
    for _ in $(seq 40); do
        # shellcheck disable=SC2086
        [ -n "$processes" ] && kill -0 $processes 2>/dev/null || break
        sleep 0.25
    done
    rm -f /etc/slurm/slurm.conf /etc/slurm/gres.conf /etc/slurm/job_submit.lua
    rm -rf "$here"
    echo "cluster.sh: stopped"
}

case "${1:-}" in
    start) start ;;
    stop) stop ;;
    status) sinfo --Node --long; squeue ;;
    node) node "${2:?number of the node}" ;;
    control) slurmctld ;;
    *) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac

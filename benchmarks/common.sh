# Sourced by the scripts of this folder that use a GPU.

refuse() {
    echo "error: $*" >&2
    exit 2
}

# Refuse a device that is not here, and install a requirements file, unless its packages (with commas) are there already.
prepare() { # device, requirements file, packages
    if [ "$1" != cpu ] && ! nvidia-smi -L 2>/dev/null | grep -q GPU; then
        refuse "no GPU found (nvidia-smi -L names none): run this on a machine with one, or give DEVICE=cpu for a trial"
    fi
    python -c "import $3" 2>/dev/null || . tools/install.sh "$2"
    if [ "$1" != cpu ] && ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
        refuse "PyTorch finds no GPU though nvidia-smi does: its CUDA build may be too new for the driver"
    fi
}

# Let the processes that follow compute on the GPU at the same time, by NVIDIA's multi-process service (MPS), where it is
# installed and works; it ends with the script.
start_mps() { # device
    [ "$1" != cpu ] && command -v nvidia-cuda-mps-control >/dev/null || return 1
    service=$(mktemp -d) # in /tmp: the paths of its sockets have to be short
    trap 'echo quit | CUDA_MPS_PIPE_DIRECTORY=$service nvidia-cuda-mps-control || :; rm -rf "$service"' EXIT
    export CUDA_MPS_PIPE_DIRECTORY=$service CUDA_MPS_LOG_DIRECTORY=$service
    if ! nvidia-cuda-mps-control -d || ! timeout 60 python -c "import torch; torch.zeros(1, device='$1')"; then
        echo "[!] the multi-process service does not work here: the processes take turns" >&2
        unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
        return 1
    fi
}

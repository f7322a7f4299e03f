# Shared by deploy/quickstart and tests/run: Debian packages and the build.
# shellcheck shell=bash

say() { if [[ -t 2 ]]; then printf '\033[1m%s\033[0m\n' "$*" >&2; else printf '== %s\n' "$*" >&2; fi; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Installs the Debian packages whose command is missing, when root; names them otherwise.
# Arguments: command=package …
need_packages() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null 2>&1 || missing+=("${pair#*=}")
    done
    [[ ${#missing[@]} -eq 0 ]] && return
    if [[ $(id -u) -ne 0 ]]; then
        die "these Debian packages are missing: ${missing[*]} (as root: apt-get install ${missing[*]})"
    fi
    say "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# A toolchain that is new enough, as Cargo.toml asks for.
need_rust() {
    command -v cargo >/dev/null 2>&1 || die "cargo is not in PATH: install a Rust toolchain >= 1.95 (rustup.rs)"
    local version
    version=$(rustc --version | cut -d' ' -f2)
    if [[ $(printf '%s\n1.95.0\n' "${version%%-*}" | sort -V | head -1) != 1.95.0 ]]; then
        die "rustc is $version and Vigie needs 1.95 or newer (rustup update)"
    fi
}

# Builds the three programs once, in the profile that VIGIE_PROFILE names (release, or dev as the tests do), and sets
# BIN to their folder.
build_programs() {
    local profile=${VIGIE_PROFILE:-release}
    local folder=$profile targets=(--bins)
    # The tests ask for features of their own: built with them, nothing is compiled twice.
    [[ $profile == dev ]] && folder=debug targets=(--bins --tests)
    cargo build --quiet --locked --workspace "${targets[@]}" --profile "$profile"
    # Read by the scripts that source this file.
    # shellcheck disable=SC2034
    BIN=${CARGO_TARGET_DIR:-$ROOT/target}/$folder
}

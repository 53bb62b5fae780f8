# Installs packages of the distribution. Sourced by the other scripts (POSIX sh).

# package_manager names the tool of this machine; empty when it is none of the known.
package_manager() {
    for m in apt-get dnf apk brew; do
        if command -v "$m" >/dev/null 2>&1; then
            echo "$m"
            return
        fi
    done
}

# as_root runs a command with root's rights and never asks for a password.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

# can_install reports whether packages can be installed without asking anybody.
can_install() {
    case "$(package_manager)" in
    apt-get | dnf | apk)
        [ "$(id -u)" -eq 0 ] || { command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; }
        ;;
    *) return 1 ;; # Homebrew is the user's own business, and an unknown system is too
    esac
}

# install_line is what a person types to get these packages.
install_line() {
    case "$(package_manager)" in
    apt-get) echo "sudo apt-get update && sudo apt-get install -y $*" ;;
    dnf) echo "sudo dnf install -y $*" ;;
    apk) echo "sudo apk add $*" ;;
    brew) echo "brew install $*" ;;
    *) echo "(with your system's package manager) install $*" ;;
    esac
}

# install_packages installs them, or says what to type and fails.
install_packages() {
    if ! can_install; then
        echo "Missing: $*. Type:" >&2
        echo "    $(install_line "$@")" >&2
        return 1
    fi
    echo "Installing $*" >&2
    case "$(package_manager)" in
    apt-get)
        as_root apt-get update -qq >&2 &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
        ;;
    dnf) as_root dnf install -y -q "$@" >&2 ;;
    apk) as_root apk add --quiet "$@" >&2 ;;
    esac
}

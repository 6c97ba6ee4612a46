#!/usr/bin/env bash
# Runs a server of the release before and one of today on one database, under load: two_versions.sh [SECONDS]
# Builds the release in a worktree of its own; what it builds stays in target/released, so that a second run is quick.
# The short form is in the ordinary tests: crates/sheaf-store/tests/released.rs.
set -euo pipefail
cd "$(dirname "$0")/.."

# The commit whose statements are the fixture.
commit="$(head -n1 crates/sheaf-store/tests/fixtures/released/RELEASE)"
released="$PWD/target/released"
tree="$released/$commit"

if [ ! -d "$tree" ]; then
    echo "two_versions: checking out $commit"
    # One whose directory somebody has removed is still known.
    git worktree prune
    git worktree add --quiet --detach "$tree" "$commit"
fi
echo "two_versions: building the release"
cargo build --manifest-path "$tree/Cargo.toml" --target-dir "$released/build" --release --locked --package sheaf
echo "two_versions: building today's"
cargo build --release --locked --package sheaf

[ -x target/venv/bin/python ] || scripts/bootstrap.sh --test
export RELEASED_BIN="$released/build/release/sheaf" SHEAF_BIN="$PWD/target/release/sheaf"
target/venv/bin/python tests/released/two_versions.py "${1:-60}"

#!/usr/bin/env bash
# Keeps the statements of a release as a fixture, so that tests can run them on the schema of today:
#   released_statements.sh COMMIT      at each release, with the commit that was released
# crates/sheaf-store/tests/released.rs asks that they all fit, and writes with them beside a writer of today.
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -eq 1 ] || { echo "usage: released_statements.sh COMMIT" >&2; exit 2; }
commit="$(git rev-parse --verify "$1^{commit}")"
fixture=crates/sheaf-store/tests/fixtures/released
# What a release was migrated to last is the number of its last migration.
version="$(git ls-tree --name-only "$commit" migrations/ | sed -n 's|^migrations/V0*\([0-9]*\)__.*|\1|p' | sort -n | tail -n1)"
[ -n "$version" ] || { echo "released_statements.sh: $commit has no migrations" >&2; exit 1; }

rm -rf "$fixture"
mkdir -p "$fixture"
git archive "$commit" crates/sheaf-store/sql | tar -x -C "$fixture" --strip-components=3
printf '%s\n%s\n' "$commit" "$version" > "$fixture/RELEASE"
echo "wrote the statements of $commit, whose schema is version $version: $(find "$fixture" -name '*.sql' | wc -l)"

.PHONY: run test check bench clean

# A running server with a year of flights in it, until Ctrl-C.
run:
	scripts/run.sh

# Everything: the gate, then what tests the executable from outside.
test:
	scripts/bootstrap.sh --test
	cargo xtask check
	cargo xtask e2e

# The gate alone.
check:
	cargo xtask check

bench:
	cargo build --release --locked --package sheaf
	target/release/sheaf bench ingest
	target/release/sheaf bench read

# Build output only; the data of make run is in .sheaf and stays.
clean:
	cargo clean

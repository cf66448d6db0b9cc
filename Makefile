# Every target is one call of a script, so that it can be called without make: python scripts/demo.py
PYTHON ?= python3

.PHONY: demo test floor newest host serve bench parity fuzz lint
demo: ; $(PYTHON) scripts/demo.py
test: ; $(PYTHON) scripts/test.py
floor: ; $(PYTHON) scripts/floor.py
newest: ; $(PYTHON) scripts/newest.py
host: ; $(PYTHON) scripts/host.py
serve: ; $(PYTHON) scripts/serve.py
bench: ; $(PYTHON) scripts/bench.py
parity: ; $(PYTHON) scripts/parity.py
fuzz: ; $(PYTHON) scripts/fuzz.py
lint: ; $(PYTHON) scripts/test.py --lint

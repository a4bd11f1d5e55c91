"""The benchmark: every contender from the same checkpoint, side by side. See docs/performance.md.

python -m bench                 the whole suite, two shapes with random weights
python -m bench --quick         fewer contenders' rounds, short and medium audio, one thread
python -m bench --run RUN       a run of your own, with the CER on its gate manifest
"""

"""What ``deconfound`` without arguments says."""

WELCOME = """\
deconfound trains, attacks, judges and explains image classifiers under the
causal view of adversarial robustness.

See it work, on bundled digits, in a few minutes:
  deconfound demo

Judge a classifier of your own (a function that makes it, and its weights):
  deconfound evaluate mine:network --weights mine.pt --data DATA --eps 8/255

Harden one, judge it, see all that was found on one page:
  deconfound train trades --data DATA --out runs/trades
  deconfound evaluate runs/trades
  deconfound report runs

Ask what it leans on:
  deconfound analyze runs/trades all

Compare defences with their controls, for as many sittings as it takes:
  deconfound study mnist --data DATA --out studies/mnist

DATA is digits (bundled), shapes (generated), a folder of images in folders of
classes, a folder in the Hugging Face layout, a hub name, or module:callable.

  deconfound list recipes     what can be trained; list knows models, data,
                              attacks, suites, objectives and studies too
  deconfound --help           all commands
  deconfound COMMAND --help   all options of one"""

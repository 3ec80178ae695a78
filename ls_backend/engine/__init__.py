"""Use cases as plain functions: they know what to do, not when, where or for whom.

sync        what Label Studio holds -> the store
embed_pool  images of new tasks -> embeddings
retrain     labels -> a model version, promoted or not
rerank      pool, plan -> the order, with its reasons
publishing  the order -> a window in Label Studio, flipped; old windows collected
update      one label's way through all of it
reconcile   Label Studio compared with the store; what differs is repaired or reported
predict     answers for /predict
deep        boxes and outlines -> a deep version, promoted or not
snapshot    what a deeper training learns from, as it was when it began
learners    kinds of controls that can be learnt deeply
judge       a deep version looks at the pool
connect     a project made ready
configure   settings checked, saved as revisions, taken back
preview     how other settings would change the head of the queue
doctor      every known trap looked at, and kept as problems
outlook     how far long work is
rollback    a model version put in force by hand
versions    model versions as people see them: listed, two side by side
known       tasks whose label is known, of a project or a folder
backtest    known labels, a plan and a seed -> a learning curve
savings     curves -> what a plan saves against random labels, with its interval
replay      several plans and random order on the same tasks, compared
advice      what to do next: stop, look at labels again, compare annotators, leave copies out, mind new tasks
"""

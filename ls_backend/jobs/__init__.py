"""When and where work runs: the embedded Redis, the job queues, the workers and their supervisor.

The only package that imports rq and redis. Jobs carry ids, never data; what has to be done is known to the records
(wanted and done generations), so that Redis may lose everything and nothing is lost.
"""

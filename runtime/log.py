"""What a service hears of rofo: the log "rofo", silent until somebody listens.

Records carry as attributes what they are about: `engine`, `song` and `chunk`; when an engine is opened
`backend`, `device`, `precision` and `batch`. INFO: an engine opened, songs done. DEBUG: every chunk. WARNING:
something else was taken than might be expected, and what is to be known of a song.
"""

import logging

LOG = logging.getLogger("rofo")
LOG.addHandler(logging.NullHandler())

"""`rofo-run --report`: what was made of songs, as one page to look at and to listen to."""

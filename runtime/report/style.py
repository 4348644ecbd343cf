"""How rofo's HTML pages look, by day and by night, on a desk and on a phone."""

STYLE = """
:root { --ink: #1c2430; --soft: #5b6675; --line: #dde2e9; --paper: #fff; --box: #f6f8fa; --ours: #e4f3f0;
  --link: #0d7a68; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9aa5b1; --line: #2d333b;
  --paper: #0d1117; --box: #161b22; --ours: #12312c; --link: #2fb39b; } }
body { margin: 0 auto; max-width: 1000px; padding: 48px 24px 96px; color: var(--ink);
  background: var(--paper);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
@media (max-width: 600px) { body { padding: 24px 16px 64px; } }
h1, h2 { letter-spacing: -0.02em; margin-bottom: 4px; overflow-wrap: anywhere; }
h3 { font-size: 0.95rem; margin: 28px 0 8px; }
p { margin: 6px 0; } .soft { color: var(--soft); font-size: 0.9rem; overflow-wrap: anywhere; }
section { margin-top: 48px; padding-top: 12px; border-top: 1px solid var(--line); }
.scroll { overflow-x: auto; margin: 20px 0; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 12px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { color: var(--soft); font-weight: 500; vertical-align: bottom; white-space: normal; }
figure { margin: 0; } img { max-width: 100%; } li { margin: 4px 0; overflow-wrap: anywhere; }
"""

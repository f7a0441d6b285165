"""HTML pages and SVG charts, rendered from templates/ into single files that load nothing."""

"""Episodes: what one is, drawing, kinds of clips and probes, index files, rendering, audit."""

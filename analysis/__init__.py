"""The papers' tables and figures on a real model and real data, one runnable study per file."""

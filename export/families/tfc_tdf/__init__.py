"""TFC-TDF v3 of kuielab's SDX23 entry, known as MDX23C."""

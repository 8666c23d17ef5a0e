module landfall.dev/lab/hello

go 1.26.0

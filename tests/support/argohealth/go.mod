module kmm.sigs.x-k8s.io/tests/argohealth

go 1.26.0

require github.com/yuin/gopher-lua v1.1.2

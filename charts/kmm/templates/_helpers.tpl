{{- /* What Helm's own conventions ask for; kustomize's label part-of is in the objects. */}}
{{- define "kmm.labels" -}}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* registry/repository:tag@digest of a list: the root, and an image of .Values.images. */}}
{{- define "kmm.image" -}}
{{- $root := index . 0 }}{{ $image := index . 1 }}
{{- $tag := ternary $image.tag (default $root.Chart.AppVersion $image.tag) (not (empty $image.digest)) }}
{{- with $root.Values.images.registry }}{{ . }}/{{ end }}{{ $image.repository }}
{{- with $tag }}:{{ . }}{{ end }}
{{- with $image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- /* Where daemons connect from, as a NetworkPolicy has it; nothing if that is everywhere. */}}
{{- define "kmm.nodes" -}}
{{- range .Values.networkPolicy.nodeCIDRs }}
- ipBlock:
    cidr: {{ . | quote }}
{{- end }}
{{- end }}

{{- /* Who may read metrics, as a NetworkPolicy has it. */}}
{{- define "kmm.monitoring" -}}
{{- range .Values.networkPolicy.monitoringNamespaces }}
- namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: {{ . | quote }}
{{- end }}
{{- end }}

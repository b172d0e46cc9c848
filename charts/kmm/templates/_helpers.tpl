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

{{- /* The authorities of registries as a file of both Pods; nothing if there are none. */}}
{{- define "kmm.registryCA.volume" -}}
{{- with .Values.registryCA }}
{{- if .configMap }}
- name: registry-ca
  configMap:
    name: {{ .configMap | quote }}
    items:
      - key: {{ .key | quote }}
        path: ca.crt
{{- end }}
{{- end }}
{{- end }}

{{- define "kmm.registryCA.mount" -}}
{{- if .Values.registryCA.configMap }}
- name: registry-ca
  mountPath: /etc/kmm-registry-ca
  readOnly: true
{{- end }}
{{- end }}

{{- /* The same as the setting of a program, of a dict with `values` and `prefix`; in JSON, for which no daemon loads PyYAML. */}}
{{- define "kmm.registryCA.setting" -}}
{{- if .values.registryCA.configMap }}
- name: {{ .prefix }}REGISTRY_CA
  value: '"/etc/kmm-registry-ca/ca.crt"'
{{- end }}
{{- end }}

{{- /* Proxies as variables of both programs; nothing if there are none. The API server is asked without. */}}
{{- define "kmm.proxy" -}}
{{- with .Values.proxy }}
{{- with .httpsProxy }}
- name: HTTPS_PROXY
  value: {{ . | quote }}
{{- end }}
{{- with .httpProxy }}
- name: HTTP_PROXY
  value: {{ . | quote }}
{{- end }}
{{- if or .httpsProxy .httpProxy }}
- name: NO_PROXY
  value: {{ prepend .noProxy "$(KUBERNETES_SERVICE_HOST)" | join "," | quote }}
{{- end }}
{{- end }}
{{- end }}

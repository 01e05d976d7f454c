{{- define "adaspa.labels" -}}
app.kubernetes.io/name: adaspa-serve
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "adaspa.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (printf "%s-adaspa" .Release.Name) }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{- define "adaspa.image" -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* What the schema cannot say. */}}
{{- define "adaspa.check" -}}
{{- if and (not .Values.redis.embedded.enabled) (not .Values.redis.existingSecret.name) }}
{{- fail "redis.existingSecret.name: is empty; name a Secret with the Redis URL, or set redis.embedded.enabled to true" }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) }}{{ fail "ingress.host: is empty; name the host that the ingress serves" }}{{ end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}{{ fail "httpRoute.parentRefs: is empty; name the Gateway to attach to" }}{{ end }}
{{- $ids := list }}
{{- range .Values.models }}
{{- if has .id $ids }}{{ fail (printf "models: the id %s is there twice" .id) }}{{ end }}
{{- $ids = append $ids .id }}
{{- with .autoscaling }}{{ if lt (int .maxReplicas) (int .minReplicas) }}{{ fail "models.autoscaling: maxReplicas is below minReplicas" }}{{ end }}{{ end }}
{{- end }}
{{- end }}

{{- define "adaspa.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "adaspa.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "adaspa.env" -}}
- name: ADASPA_REDIS_URL
{{- if .Values.redis.embedded.enabled }}
  value: redis://{{ .Release.Name }}-redis:6379/0
{{- else }}
  valueFrom: {secretKeyRef: {name: {{ .Values.redis.existingSecret.name | quote }}, key: {{ .Values.redis.existingSecret.key | quote }}}}
{{- end }}
- name: ADASPA_STORAGE_URL
  value: {{ .Values.storage.url | default "/videos" | quote }}
- name: ADASPA_METRICS_PORT
  value: "9100"
- name: ADASPA_LOG_FORMAT
  value: json
- name: HOME
  value: /tmp
{{- if .Values.catalog }}
- name: ADASPA_CATALOG
  value: /etc/adaspa/catalog.json
{{- end }}
{{- range $name, $value := .Values.settings }}
- name: ADASPA_{{ upper $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- with .Values.tracing.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- end }}

{{/* The first API key, under the name that its reader gives it. */}}
{{- define "adaspa.apiKey" -}}
{{- with .root.Values.access.existingSecret -}}
- name: {{ $.name }}
  valueFrom: {secretKeyRef: {name: {{ .name | default (printf "%s-api-key" $.root.Release.Name) | quote }}, key: {{ .key | quote }}}}
{{- end }}
{{- end }}

{{- define "adaspa.envFrom" -}}
{{- with .Values.storage.existingSecret }}
envFrom: [{secretRef: {name: {{ . | quote }}}}]
{{- end }}
{{- end }}

{{- define "adaspa.mounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if .Values.catalog }}
- {name: catalog, mountPath: /etc/adaspa, readOnly: true}
{{- end }}
{{- if not .Values.storage.url }}
- {name: videos, mountPath: /videos}
{{- end }}
{{- end }}

{{- define "adaspa.volumes" -}}
- {name: tmp, emptyDir: {}}
{{- if .Values.catalog }}
- {name: catalog, configMap: {name: {{ .Release.Name }}-catalog}}
{{- end }}
{{- if not .Values.storage.url }}
- {name: videos, persistentVolumeClaim: {claimName: {{ .Release.Name }}-videos}}
{{- end }}
{{- end }}

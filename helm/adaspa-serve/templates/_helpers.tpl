{{- define "adaspa.labels" -}}
app.kubernetes.io/name: adaspa-serve
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Of every object; selectors have only those above, since they may never change. */}}
{{- define "adaspa.allLabels" -}}
{{ include "adaspa.labels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "adaspa.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (printf "%s-adaspa" .Release.Name) }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{/* Of an entry of models: what tells its workers from those of the model's other entries, and what names its objects. */}}
{{- define "adaspa.ofQueue" -}}
{{- with .only }}-{{ . }}{{ end }}
{{- end }}

{{- define "adaspa.workerName" -}}
{{ .id | replace "." "-" | replace "_" "-" }}{{ include "adaspa.ofQueue" . }}
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
{{- range $name := list "bootstrap_key" "signing_secret" "webhook_secrets" "redis_url" }}
{{- if hasKey $.Values.settings $name }}{{ fail (printf "settings.%s: is a secret; name a Secret that holds it in secretSettings, redis or access" $name) }}{{ end }}
{{- end }}
{{- $served := list "demo" }}
{{- with .Values.catalog }}
{{- $served = list }}
{{- range . }}{{ $served = append $served .id }}{{ end }}
{{- end }}
{{- $names := list }}
{{- $queues := dict }}
{{- range .Values.models }}
{{- $model := . }}
{{- if not (has .id $served) }}{{ fail (printf "models: %s is not in the catalog; there is %s" .id (join ", " $served)) }}{{ end }}
{{- $name := include "adaspa.workerName" . }}
{{- if has $name $names }}{{ fail (printf "models: worker-%s is there twice; an id may be there once without only, and once with each queue" $name) }}{{ end }}
{{- $names = append $names $name }}
{{- $_ := set $queues .id (concat (get $queues .id | default list) (ternary (list "interactive" "bulk") (list .only) (empty .only))) }}
{{- with .modelCache }}
{{- if and .existingClaim .size }}{{ fail "models.modelCache: existingClaim and size are both there; name a volume that is there or the size of a new one" }}{{ end }}
{{- end }}
{{- with .autoscaling }}{{ if lt (int .maxReplicas) (int .minReplicas) }}{{ fail "models.autoscaling: maxReplicas is below minReplicas" }}{{ end }}{{ end }}
{{- if and .autoscaling .autoscaling.enabled }}
{{- if .only }}{{ fail (printf "models.only: %s is scaled by the jobs of both queues; say replicas, without autoscaling" .id) }}{{ end }}
{{- if eq (.autoscaling.scaleDown | default "idle") "idle" }}
{{- range $.Values.models }}
{{- if and .only (eq .id $model.id) }}{{ fail (printf "models.autoscaling.scaleDown: idle would count the workers of %s that serve one queue only; allowed beside them: any" .id) }}{{ end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- range $id, $queuesServed := $queues }}
{{- range list "interactive" "bulk" }}
{{- if not (has . $queuesServed) }}{{ fail (printf "models: nobody would serve the %s queue of %s; leave only out of one entry, or add another" . $id) }}{{ end }}
{{- end }}
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
{{- /* A number is a float64 here, which toString and a bare action write as 2.592e+06; JSON has 2592000. */}}
{{- range $name, $value := .Values.settings }}
- name: ADASPA_{{ upper $name }}
  value: {{ ternary $value (toJson $value) (kindIs "string" $value) | quote }}
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

{{/* Settings of the gateway that are secrets. */}}
{{- define "adaspa.secretSettings" -}}
{{- range $name, $secret := .Values.secretSettings }}
- name: ADASPA_{{ upper $name }}
  valueFrom: {secretKeyRef: {name: {{ $secret.name | quote }}, key: {{ $secret.key | quote }}}}
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

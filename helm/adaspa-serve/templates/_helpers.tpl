{{- define "adaspa.env" -}}
- name: ADASPA_REDIS_URL
  value: {{ .Values.redisUrl | quote }}
- name: ADASPA_STORAGE_URL
  value: {{ .Values.storageUrl | quote }}
{{- end }}
